"""What can be trained out of the box, each a [`deqjax.training.Task`][] as a user would write it."""
