"""The page on which people compare images, and the journals that keep what they answer.

questions.py   which images are compared: a pure function of the samples, their scores and a seed
journal.py     one person's answers in a file: durable before the next question is shown
session.py     who is asked what next
app.py         the web application around a session
"""
