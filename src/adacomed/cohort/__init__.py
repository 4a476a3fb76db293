"""Who the samples are, what is known of each, and how they are split."""
