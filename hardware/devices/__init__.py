"""What a device is: interfaces, the registry of drivers by name, and what drivers are made of."""
