"""Runs side by side: are the conditions identical, is the difference beyond noise, and one HTML page that says so."""
