//! Fixture for scenarios with real guests.
