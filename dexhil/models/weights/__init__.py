"""Public weights as our parameter tree. Local files only; third_party/README.md says where a user gets each."""
