"""How people sign in to the chat and the registry's pages: with a password of ours, or at a provider of identities."""
