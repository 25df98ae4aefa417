"""What a simulated attack is: a client half that misbehaves after the strategy's own."""

from __future__ import annotations

from fl2ora.strategies.client_rule import ClientRule


class Attack(ClientRule):
    """A client rule that an attacker runs after the strategy's; see ``attacks/attacked.py``."""
