"""Page of a run: tables, charts, pictures, the viewer."""
