"""Methods that train a network: plain, joint, soft, selective."""
