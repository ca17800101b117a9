"""What the trainings of all domains share."""
