"""The local web app: data, runs and reviews in the browser, on this machine alone."""
