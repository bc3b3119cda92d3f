"""What a run is: its data, network, pattern, method, training and seeds; and its id."""
