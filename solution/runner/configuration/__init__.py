"""What a recipe may say: keys, paths, parameters of operators, files and images of a data set."""
