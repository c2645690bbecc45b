"""What a tuner costs beside the best that it could have done."""
