"""Device to fragments in Kafka: drivers, sequencer, sender."""
