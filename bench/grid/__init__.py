"""From a YAML file to the specs of its runs."""
