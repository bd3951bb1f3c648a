"""Telling people and programs how runs go: an outbox written with each change, a courier, and the ways out."""
