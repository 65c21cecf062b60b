"""The bus: Pigeon messages over STOMP."""
