"""One pure policy a file; the reconciler asks them and acts on what they say."""
