"""The HTTP shape of serving: OpenAI's chat completions, feedback, passages, and what operators look at.

Each module holds the routes of one subject; what happens behind them is in `llmops.serving.service`.
"""
