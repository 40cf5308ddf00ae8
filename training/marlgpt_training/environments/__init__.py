"""Games that policies are trained and evaluated in."""
