"""The pages of a human study: a face over polymode.app.service.study, as the command line is one."""
