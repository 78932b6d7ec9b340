//! The edge: HTTP and WebSocket in front of the actors.
