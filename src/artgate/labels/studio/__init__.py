"""Label Studio: its server, its projects and tasks, and the votes that come back."""
