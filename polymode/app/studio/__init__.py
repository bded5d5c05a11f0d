"""The web studio: what the command line can do, as pages; built with Gradio over `app.service`."""
