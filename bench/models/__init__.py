"""Networks whose layers are numbered, so that layer patterns work on all of them."""
