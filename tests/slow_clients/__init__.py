"""What slow and dead clients cost the others: a measurement, to be run on demand."""
