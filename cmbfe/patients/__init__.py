"""Any patients, simulated or imported, beside what is published of real ones: `cmbfe describe`."""
