"""What every stage shares: names, configs, errors, files, randomness, the machine."""
