"""`triage doctor`: what this machine can do, one small check a question, and a fix for every problem."""
