//! The guest agent's protocol.
