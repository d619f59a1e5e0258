"""Runs that are disturbed: killed, filled, collided, stopped; and a thousand patients with faults."""
