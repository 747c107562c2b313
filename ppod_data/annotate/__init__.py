"""Page on which people compare images, and the journals that store their answers.

questions.py   groups of images to compare: a pure function of the samples, their scores and a seed
journal.py     one person's answers in a file: durable before the next question is shown
session.py     assignment of questions to people
app.py         web application around a session
"""
