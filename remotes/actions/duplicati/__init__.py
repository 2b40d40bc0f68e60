"""The actions on Duplicati servers, one module for each part: what they share stands here."""

# Taken by every action that talks to a Duplicati server.
SESSION = ("server", "password", "password_file", "basic_user", "basic_password_file", "pin",
           "insecure", "show_secrets")
