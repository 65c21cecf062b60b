"""The microscope: simulated devices, the session, the recorder."""
