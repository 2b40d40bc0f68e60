"""The parts of the demo Duplicati server; demo/duplicati.py puts them together."""
