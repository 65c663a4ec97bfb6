"""What a merge is worth: merging, engines that answer, tasks that ask, and the score."""
