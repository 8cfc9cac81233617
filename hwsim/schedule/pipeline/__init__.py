"""Pipeline schedules: their tasks, order and closed-form times."""
