"""Progress of a training run: state, schedule, history, extension."""
