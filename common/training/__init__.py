"""What training loops share: learning-rate schedules, interruption, resumable state, repeatable randomness."""
