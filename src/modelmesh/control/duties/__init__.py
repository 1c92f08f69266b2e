"""What an instance does without being asked, about once a second: `rounds` turns them all."""
