"""What is done: the pipeline definition, the graph, execution, campaigns, the steps and the command line."""
