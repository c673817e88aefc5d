"""What a decode gives: decoder, label issues, examples, class geometry, run folder, exports."""
