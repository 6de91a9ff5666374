"""What a recipe may say: keys, paths, parameters of operators, files of a data set."""
