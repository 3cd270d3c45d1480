"""Short programs and configurations to start from."""
