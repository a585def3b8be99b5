"""Numbers from records: speed-ups, intervals and tables. Nothing here trains or draws."""
