"""What a step controller costs, and how exact it is, beside others on the same runs."""
