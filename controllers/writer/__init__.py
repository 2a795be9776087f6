"""Writers: the results of a run, from Kafka to files that appear only when whole."""
