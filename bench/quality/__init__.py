"""Quality of single steps: watersheds, synthetic patients, transplants."""
