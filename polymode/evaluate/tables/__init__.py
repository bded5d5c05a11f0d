"""What metrics of tables are made with: the one learner, and rows interpolated without any learning."""
