"""Operator graphs: what a Transformer computes, with exact work and traffic."""
