"""Compare simulated or imported patients with published values of real patients (`cmbfe describe`)."""
