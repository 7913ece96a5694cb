"""Jobs of any scheduler: their progress, why they ended, whether they run again, and how they are shown."""
