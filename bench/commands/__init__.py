"""The commands: parse, call, print. One module each."""
